"""What our backends have in common; no part of the contract for authors, which is `api` alone."""
