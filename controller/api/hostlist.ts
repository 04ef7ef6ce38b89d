/**
 * Hostlists: sets of node names in the notation of Slurm and ClusterShell, "t2r[00-01]n[00-31],login1".
 *
 * Invariants:
 * 1. For every set of valid names, parsing what was formatted gives the same set, and formatting depends on nothing but
 *    the set.
 * 2. Parsing allocates in proportion to the text and to `maxHosts`, never to a number written in the text.
 * 3. Zero padding belongs to the name: "n7" and "n07" are two nodes.
 */

/** Longest name of a node: a DNS subdomain (RFC 1123), which is what object names are. */
const maxNameLength = 253;
/** Longest hostlist that is read, in characters: the bound of the longest hostlist field of the CRDs. */
const maxTextLength = 1_048_576;
/** More digits than this would not fit a number exactly. */
const maxDigits = 15;
const defaultMaxHosts = 100_000;

/** A text that is not a hostlist, or one that is larger than allowed. */
export class HostlistError extends Error {
  /** Offset into the text, in characters from 0. */
  readonly position: number;
  /** What is wrong there, without the position. */
  readonly reason: string;

  constructor(position: number, reason: string) {
    super(`hostlist, at character ${position + 1}: ${reason}`);
    this.name = 'HostlistError';
    this.position = position;
    this.reason = reason;
  }
}

/** One item of a bracket group: lo to hi, both included, padded with zeros to `width`. */
interface Range {
  lo: number;
  hi: number;
  width: number;
}

type Part = string | Range[];

const code = (character: string): number => character.charCodeAt(0);
const zero = code('0');
const nine = code('9');
const comma = code(',');
const open = code('[');
const close = code(']');
const dash = code('-');

const isDigit = (c: number): boolean => c >= zero && c <= nine;

/** What a node name consists of. NaN (past the end of the text) is not among it. */
const isNameCharacter = (c: number): boolean =>
  isDigit(c) || (c >= code('a') && c <= code('z')) || c === dash || c === code('.');

class Parser {
  readonly #text: string;
  readonly #maxHosts: number;
  readonly #names = new Set<string>();
  #at = 0;
  #written = 0;

  constructor(text: string, maxHosts: number) {
    this.#text = text;
    this.#maxHosts = maxHosts;
  }

  parse(): string[] {
    if (this.#text === '') return [];
    if (this.#text.length > maxTextLength)
      throw new HostlistError(maxTextLength, `longer than ${maxTextLength} characters`);
    for (;;) {
      this.#term();
      if (this.#at >= this.#text.length) return [...this.#names];
      this.#at++;
    }
  }

  /** Reads one term and leaves the position on the comma behind it, or at the end. */
  #term(): void {
    const start = this.#at;
    const parts: Part[] = [];
    const remaining = this.#maxHosts - this.#written;
    let count = 1;
    let longest = 0;
    while (this.#at < this.#text.length && this.#code() !== comma) {
      const partAt = this.#at;
      if (this.#code() === open) {
        const ranges = this.#group(Math.floor(remaining / count));
        count *= ranges.reduce((sum, range) => sum + range.hi - range.lo + 1, 0);
        longest += ranges.reduce((most, range) => Math.max(most, range.width, String(range.hi).length), 0);
        parts.push(ranges);
      } else {
        while (isNameCharacter(this.#code())) this.#at++;
        if (this.#at === partAt) throw new HostlistError(partAt, this.#unexpected());
        longest += this.#at - partAt;
        parts.push(this.#text.slice(partAt, this.#at));
      }
      if (longest > maxNameLength) throw new HostlistError(start, `a name longer than ${maxNameLength} characters`);
    }
    if (parts.length === 0) throw new HostlistError(start, 'a name is missing');
    if (count > remaining) throw this.#tooMany(start);
    this.#written += count;
    this.#expand(parts, 0, '');
  }

  /** Reads "[...]", at most `limit` numbers. */
  #group(limit: number): Range[] {
    const groupAt = this.#at;
    const ranges: Range[] = [];
    let count = 0;
    do {
      this.#at++;
      const range = this.#range();
      count += range.hi - range.lo + 1;
      if (count > limit) throw this.#tooMany(groupAt);
      ranges.push(range);
    } while (this.#code() === comma);
    if (this.#code() !== close) {
      const reason = this.#at < this.#text.length ? this.#unexpected() : 'this "[" is never closed';
      throw new HostlistError(this.#at < this.#text.length ? this.#at : groupAt, reason);
    }
    this.#at++;
    return ranges;
  }

  #range(): Range {
    const start = this.#at;
    const lo = this.#digits();
    let hi = lo;
    if (this.#code() === dash) {
      this.#at++;
      hi = this.#digits();
    }
    const padded = lo.length > 1 && lo.startsWith('0');
    const hiPadded = hi.length > 1 && hi.startsWith('0');
    if ((hiPadded && hi.length !== lo.length) || (padded && hi.length < lo.length))
      throw new HostlistError(start, `the ends of ${lo}-${hi} are padded with zeros to different widths`);
    const range = { lo: Number(lo), hi: Number(hi), width: padded ? lo.length : 0 };
    if (range.hi < range.lo) throw new HostlistError(start, `the range ${lo}-${hi} runs backwards`);
    return range;
  }

  #digits(): string {
    const start = this.#at;
    while (isDigit(this.#code())) this.#at++;
    if (this.#at === start) throw new HostlistError(start, 'a number is missing');
    if (this.#at - start > maxDigits) throw new HostlistError(start, `a number of more than ${maxDigits} digits`);
    return this.#text.slice(start, this.#at);
  }

  #expand(parts: Part[], index: number, prefix: string): void {
    const part = parts[index];
    if (part === undefined) {
      this.#names.add(prefix);
    } else if (typeof part === 'string') {
      this.#expand(parts, index + 1, prefix + part);
    } else {
      for (const { lo, hi, width } of part)
        for (let value = lo; value <= hi; value++)
          this.#expand(parts, index + 1, prefix + String(value).padStart(width, '0'));
    }
  }

  #code(): number {
    return this.#text.charCodeAt(this.#at);
  }

  #unexpected(): string {
    const character = String.fromCodePoint(this.#text.codePointAt(this.#at) ?? zero);
    return `${JSON.stringify(character)} cannot stand here; names have lower-case letters, digits, "-" and ".", ranges stand in "[" and "]"`;
  }

  #tooMany(position: number): HostlistError {
    return new HostlistError(position, `more than ${this.#maxHosts} nodes`);
  }
}

/**
 * The names in the order in which the text gives them (the rightmost bracket group counts fastest), each once.
 * An empty text is an empty set. Throws HostlistError; `maxHosts` bounds the names before repetitions are dropped.
 */
export function parseHostlist(text: string, { maxHosts = defaultMaxHosts }: { maxHosts?: number } = {}): string[] {
  return new Parser(text, maxHosts).parse();
}

/** A set of names that agree but for the part that was folded: everything in `head` times everything in `tail`. */
interface Fold {
  head: string;
  tail: string;
}

function checkName(name: string): void {
  if (name === '' || name.length > maxNameLength)
    throw new HostlistError(0, `${JSON.stringify(name.slice(0, 64))} is no name: 1 to ${maxNameLength} characters`);
  for (let at = 0; at < name.length; at++)
    if (!isNameCharacter(name.charCodeAt(at)))
      throw new HostlistError(at, `${JSON.stringify(name)} is no name: lower-case letters, digits, "-" and "." only`);
}

/** [from, to) of the last number in the text that is short enough to count with; undefined when there is none. */
function lastNumber(text: string): { from: number; to: number } | undefined {
  let to = text.length;
  while (to > 0) {
    while (to > 0 && !isDigit(text.charCodeAt(to - 1))) to--;
    let from = to;
    while (from > 0 && isDigit(text.charCodeAt(from - 1))) from--;
    if (from < to && to - from <= maxDigits) return { from, to };
    to = from;
  }
  return undefined;
}

/** Shorter numbers first, so that padded and unpadded ones do not interleave; within a length text order is number order. */
const byLengthThenText = (a: string, b: string): number => a.length - b.length || (a < b ? -1 : a > b ? 1 : 0);

/** "07" or "[00-31,40]", of distinct numbers. */
function foldNumbers(numbers: string[]): string {
  const [first, ...rest] = numbers.sort(byLengthThenText);
  if (first === undefined || rest.length === 0) return first ?? '';
  const items: string[] = [];
  let lo = first;
  let hi = first;
  const flush = (): void => {
    items.push(lo === hi ? lo : `${lo}-${hi}`);
  };
  for (const number of rest) {
    // A padded range never grows wider: readers of this notation disagree on what "08-100" means.
    const padded = lo.length > 1 && lo.startsWith('0');
    const follows =
      Number(number) === Number(hi) + 1 && (number.length === hi.length || (!padded && number[0] !== '0'));
    if (!follows) {
      flush();
      lo = number;
    }
    hi = number;
  }
  flush();
  return `[${items.join(',')}]`;
}

/**
 * The canonical hostlist of a set of names: numbers are folded from the right to the left, sets that have equal right parts
 * are folded into one, terms are in text order. A few ms for 88,128 names. Throws HostlistError for what is no name.
 */
export function formatHostlist(names: Iterable<string>): string {
  let folds: Fold[] = [];
  for (const head of new Set(names)) {
    checkName(head);
    folds.push({ head, tail: '' });
  }
  const terms: string[] = [];
  while (folds.length > 0) {
    const groups = new Map<string, { head: string; tail: string; numbers: string[] }>();
    for (const { head, tail } of folds) {
      const number = lastNumber(head);
      if (number === undefined) {
        terms.push(head + tail);
        continue;
      }
      const before = head.slice(0, number.from);
      const after = head.slice(number.to) + tail;
      const key = `${before}\0${after}`;
      const value = head.slice(number.from, number.to);
      const group = groups.get(key);
      if (group === undefined) groups.set(key, { head: before, tail: after, numbers: [value] });
      else group.numbers.push(value);
    }
    folds = [];
    for (const { head, tail, numbers } of groups.values()) folds.push({ head, tail: foldNumbers(numbers) + tail });
  }
  return terms.sort().join(',');
}
