"""DeepSpeed ZeRO-3 learners: credit, surrogate, optimizer."""
