-- After how many steps a command took effect, for the next attempt to repeat a change where it was made; and what a
-- checkpoint was worth on held-out tokens.
ALTER TABLE commands ADD COLUMN step INTEGER;
ALTER TABLE checkpoints ADD COLUMN held_out_loss REAL;
