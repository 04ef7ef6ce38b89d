/** The program as a person starts it: a process of its own, with what it wrote and how it ended. */
import { type ChildProcess, spawn } from 'node:child_process';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const main = fileURLToPath(new URL('../../controller/main.ts', import.meta.url));
const root = fileURLToPath(new URL('../..', import.meta.url));

/** A test that waits longer than this has found a fault. */
const patienceMs = 60_000;

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export class Program {
  readonly process: ChildProcess;
  readonly ended: Promise<Ended>;
  stdout = '';
  stderr = '';
  readonly #listeners = new Set<() => void>();

  constructor(words: readonly string[], environment: NodeJS.ProcessEnv = process.env) {
    const child = spawn(process.execPath, [main, ...words], {
      cwd: root,
      env: environment,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.process = child;
    const timer = setTimeout(() => child.kill('SIGKILL'), patienceMs);
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text;
      for (const listener of this.#listeners) listener();
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    this.ended = new Promise((resolve) => {
      child.on('close', (code, signal) => {
        clearTimeout(timer);
        for (const listener of this.#listeners) listener();
        resolve({ code, signal, stdout: this.stdout, stderr: this.stderr });
      });
    });
  }

  /** Resolves when standard output matches. @throws Error with all output when the program ends before */
  said(pattern: RegExp): Promise<void> {
    return new Promise((resolve, reject) => {
      const look = (): void => {
        if (pattern.test(this.stdout)) resolve();
        else if (this.process.exitCode !== null || this.process.signalCode !== null)
          reject(new Error(`it ended before it said ${pattern}:\n${this.stdout}\n${this.stderr}`));
        else return;
        this.#listeners.delete(look);
      };
      this.#listeners.add(look);
      look();
    });
  }
}

export const run = (...words: string[]): Promise<Ended> => new Program(words).ended;
