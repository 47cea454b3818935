"""Ollama's `/api/chat` and `/api/tags`: its bodies become OpenAI's, and answers its own. Pure."""
