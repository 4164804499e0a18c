"""The study of a table: its rows, and many small networks trained as one stack."""
