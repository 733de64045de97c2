"""Users and their records: loading, tokenised populations on disk, record selection, canaries."""
