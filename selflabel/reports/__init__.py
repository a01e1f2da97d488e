"""What a person looks at: figures, comparisons, montages, and the summary of a labeled folder."""
