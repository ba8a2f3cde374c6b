"""llm2ws: LLM stream in, speech out."""
