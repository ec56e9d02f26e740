"""Other tools' files, read and written: FlashRL, compressed-tensors, llm-compressor, vLLM.

What a file asks and our documents cannot say is an error that names every key, and so is what a plan does and a
format cannot say; ``lossy`` turns those errors into notes, never silently.
"""
