/**
 * What a person writes on the command line, read and refused by name. Light: it is loaded for `--help` too.
 */
import { InvalidArgumentError } from 'commander';

/** A mistake that the person can correct: shown without a stack. */
export class CliError extends Error {
  override readonly name = 'CliError';
}

function number(text: string, what: string, least: number, most: number, isWhole: boolean): number {
  const value = /^\d+(\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
  if (value >= least && value <= most && (!isWhole || Number.isInteger(value))) return value;
  throw new InvalidArgumentError(`It must be ${what} from ${least} to ${most}.`);
}

/** 0 stands for any free one. */
export const port = (text: string): number => number(text, 'a port number', 0, 65_535, true);
export const share = (text: string): number => number(text, 'a share', 0, 1, false);
export const count = (text: string): number => number(text, 'a whole number', 0, 1_000_000, true);
/** Up to 30 days. */
export const seconds = (text: string): number => number(text, 'a number of seconds', 0.1, 2_592_000, false);
export const timeFactor = (text: string): number => number(text, 'a number', 0.1, 10_000, false);

/** As Kubernetes names a namespace. */
export function dnsLabel(text: string): string {
  if (/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(text)) return text;
  throw new InvalidArgumentError('It must be lower-case letters, digits and "-", at most 63 characters.');
}
