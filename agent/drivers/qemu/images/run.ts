/**
 * Runs a program that makes images, in an environment of its own: no person's language or path changes what comes out.
 */
import { run as runProgram } from '../command.ts';

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
}

const environment = { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' };

/** @returns what it printed @throws Error with its last words, or the Debian package to install */
export const run = (program: string, args: readonly string[], { cwd, env = {} }: RunOptions = {}): Promise<string> =>
  runProgram(program, args, { ...(cwd === undefined ? {} : { cwd }), env: { ...environment, ...env } });
