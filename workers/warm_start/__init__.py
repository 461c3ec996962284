"""The small model of the laptop run: made, taught by worked examples until it is often wrong, and cached."""
