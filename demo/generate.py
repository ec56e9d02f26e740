"""Any program that uses vLLM: greedy text for three prompts. It knows nothing of plans."""

import sys

import vllm

PROMPTS = [
    "The capital of France is",
    "To make a cup of tea, first",
    "The three primary colours are",
]


def main() -> None:
    llm = vllm.LLM(model=sys.argv[1], max_model_len=512, enforce_eager=True)
    params = vllm.SamplingParams(temperature=0.0, max_tokens=24)
    for output in llm.generate(PROMPTS, params, use_tqdm=False):
        print(f"{output.prompt} ->{output.outputs[0].text!r}")


if __name__ == "__main__":
    main()
