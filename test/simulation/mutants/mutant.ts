/**
 * A mutant: one mistake that somebody could make in production code, as an exchange of text in the files that hold it.
 *
 * Invariants:
 * 1. Production code knows nothing of mutants: they come in when a file is loaded, in a process that was started for one.
 * 2. Every text to be found stands in its file exactly once: a table that no longer fits the code throws, and is mended.
 */

export interface Edit {
  /** From the root of the repository. */
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

export interface Mutant {
  readonly name: string;
  /** The mistake in a sentence for people. */
  readonly mistake: string;
  /** Numbers of the rules of which one must be found broken. */
  readonly rules: readonly number[];
  /** More than one where the promise has more than one line of defence: a mistake in all of them must be seen. */
  readonly edits: readonly Edit[];
  /** Families or kinds of faults under which it matters; absent: all. */
  readonly faults?: readonly string[];
  /** A test that must fail, where the simulator does not reach the code: its file, and a part of its name. */
  readonly test?: { readonly file: string; readonly name: string };
}

/** @throws Error naming the mutant and the file where a text does not stand exactly once */
export function mutate(mutant: Mutant, file: string, source: string): string {
  let text = source;
  for (const edit of mutant.edits) {
    if (edit.file !== file) continue;
    const parts = text.split(edit.find);
    if (parts.length !== 2) {
      throw new Error(
        `mutant ${mutant.name}: ${file} holds the text to be exchanged ${parts.length - 1} times instead of once; mend the table:\n${edit.find}`,
      );
    }
    text = parts.join(edit.replace);
  }
  return text;
}

export const filesOf = (mutant: Mutant): string[] => [...new Set(mutant.edits.map(({ file }) => file))];

export const edit = (file: string, find: string, replace: string): Edit => ({ file, find, replace });
