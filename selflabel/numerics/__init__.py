"""What solvers are made of: `cuts` for hard labels, `descent` for soft ones, `linear` for closed forms.

The three rooms do not import each other, and know no solver, no file and no screen.
"""
