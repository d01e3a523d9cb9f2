"""Everything that looks at bytes from outside: nothing in them is executed, and what they claim is bounded first."""
