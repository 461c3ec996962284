"""The verifier pool: typed verdicts from killable processes."""
