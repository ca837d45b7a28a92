"""Options and facts in, claims and a plan out. Pure, but for the templates it reads."""
