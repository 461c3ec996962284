"""Problems in, training batches out."""
