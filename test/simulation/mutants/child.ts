/**
 * The process of one mutant: runs seeds until a rule is found broken that the mutant should break. Arguments: the rules, the
 * seeds, each separated by commas. Says what it found of each seed in a line of JSON (SeedVerdict in runner.ts).
 */
