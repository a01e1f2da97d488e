"""What a person looks at: figures, comparisons, montages, pictures of an image, the summary of a labeled folder."""
