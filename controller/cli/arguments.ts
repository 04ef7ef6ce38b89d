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
/** Addresses of the lab follow from a node's place in its rack. */
export const nodeCount = (text: string): number => number(text, 'a number of nodes', 1, 200, true);
/** Up to 30 days. */
export const seconds = (text: string): number => number(text, 'a number of seconds', 0.1, 2_592_000, false);
export const timeFactor = (text: string): number => number(text, 'a number', 0.1, 10_000, false);

/** As Kubernetes names a namespace. */
export function dnsLabel(text: string): string {
  if (/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(text)) return text;
  throw new InvalidArgumentError('It must be lower-case letters, digits and "-", at most 63 characters.');
}

export function sha256(text: string): string {
  if (/^[0-9a-f]{64}$/.test(text)) return text;
  throw new InvalidArgumentError('It must be 64 lower-case hexadecimal digits.');
}

/** Of the blocks of a digest tree, in bytes. */
export function blockSize(text: string): number {
  const match = /^(\d{1,7})(Ki|Mi)?$/.exec(text);
  const unit = match?.[2] === 'Ki' ? 1024 : match?.[2] === 'Mi' ? 1_048_576 : 1;
  const bytes = Number(match?.[1]) * unit;
  if (bytes >= 4096 && bytes <= 1_048_576 && Number.isInteger(Math.log2(bytes))) return bytes;
  throw new InvalidArgumentError('It must be a power of two from 4Ki to 1Mi.');
}
