"""What a person looks at: figures, comparisons, montages, pictures that explain an image, and the summary of a labeled folder."""
