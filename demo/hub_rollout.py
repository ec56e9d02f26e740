"""Any program that uses vLLM, and one line on what ran: greedy text, then what the worker says of its plan."""

import sys

import vllm

from flashrl_registry import status

PROMPTS = ["The capital of France is", "To make a cup of tea, first"]


def main() -> None:
    llm = vllm.LLM(model=sys.argv[1], max_model_len=512, enforce_eager=True)
    params = vllm.SamplingParams(temperature=0.0, max_tokens=16)
    for output in llm.generate(PROMPTS, params, use_tqdm=False):
        print(f"{output.prompt} ->{output.outputs[0].text!r}")
    report = status(llm)[0]
    print(f"source  {report['source']}")
    print(f"digest  {report['plan_digest']}")
    print(f"state   {report['state']}, layers {report['layers']}")


if __name__ == "__main__":
    main()
