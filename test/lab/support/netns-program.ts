/** A program of this directory that runs in a network namespace: a line of JSON asks it, a line of JSON answers. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import process from 'node:process';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const python = '/usr/bin/python3';

export class NetnsProgram {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: Interface;
  readonly #answers: AsyncIterator<string>;
  #busy: Promise<unknown>;

  /** @param script in Python; its first line says that it is ready */
  constructor(netns: string, script: string, ...args: readonly string[]) {
    const path = fileURLToPath(new URL(script, import.meta.url));
    this.#child = spawn('ip', ['netns', 'exec', netns, python, path, ...args]);
    this.#child.stderr.pipe(process.stderr);
    this.#lines = createInterface({ input: this.#child.stdout });
    this.#answers = this.#lines[Symbol.asyncIterator]();
    this.#busy = this.#answers.next();
  }

  ask<T>(command: object): Promise<T> {
    const answer = this.#busy.then(async () => {
      this.#child.stdin.write(`${JSON.stringify(command)}\n`);
      const { value, done } = await this.#answers.next();
      if (done === true) throw new Error('the program in the namespace is gone');
      return JSON.parse(value) as T;
    });
    this.#busy = answer.catch(() => {});
    return answer;
  }

  end(): Promise<void> {
    this.#lines.close();
    return new Promise((resolve) => {
      if (this.#child.exitCode !== null || this.#child.signalCode !== null) return resolve();
      this.#child.once('exit', () => resolve());
      this.#child.kill('SIGKILL');
    });
  }
}
