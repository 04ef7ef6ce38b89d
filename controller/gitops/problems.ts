/**
 * What is wrong with a file, for people: where, what, and what to do. The status of a sync and the offline check say it in the same words.
 */

export interface Problem {
  /** Path as the person knows it: below the repository's root, or as given on the command line. */
  readonly file: string;
  /** From 1. */
  readonly line?: number;
  /** From 1. */
  readonly column?: number;
  /** `spec.image.sha256` */
  readonly field?: string;
  /** `NodeAllocation team-a/cfd` */
  readonly object?: string;
  /** A warning stops nothing. */
  readonly severity: 'error' | 'warning';
  readonly reason: string;
  /** What to do about it. */
  readonly hint?: string;
}

/** `file:line: field: reason (hint)`; what is not known is left out. */
export function formatProblem(problem: Problem): string {
  const { file, line, column, field, object, severity, reason, hint } = problem;
  const place = [file, line, column].filter((part) => part !== undefined).join(':');
  const words = [place, severity === 'warning' ? 'warning' : undefined, object, field, reason];
  const text = words.filter((word) => word !== undefined && word !== '').join(': ');
  return oneLine(hint === undefined ? text : `${text} (${hint})`);
}

/** Control characters from a hostile repository must not reach a terminal. */
export function oneLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return text.replaceAll(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, ' ');
}

/** Orders by file and line. */
export function compareProblems(a: Problem, b: Problem): number {
  return a.file < b.file ? -1 : a.file > b.file ? 1 : (a.line ?? 0) - (b.line ?? 0);
}
