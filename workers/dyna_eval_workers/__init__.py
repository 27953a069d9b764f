"""The part that decodes: model pairs, prompts, the engine, and the Ray actor that holds a loaded pair."""
