"""OpenAI over HTTP: what a gateway takes is a requester's prompt on MQTT."""
