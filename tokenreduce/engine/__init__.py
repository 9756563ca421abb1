"""The language model run with tokens that really leave: prefill, generation."""
