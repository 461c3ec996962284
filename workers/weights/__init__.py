"""One policy version from ZeRO-3 shards to every engine, on vLLM's own weight-transfer interface."""
