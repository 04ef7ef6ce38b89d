/**
 * The processes that the benchmark measures: started, asked what they used, ended.
 *
 * Invariant: a child that ends by itself fails whatever the benchmark waits for, with the name of its log.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import type { Usage } from './usage.ts';

export interface ChildOptions {
  readonly name: string;
  /** The program and its words, for node. */
  readonly words: readonly string[];
  /** For its log. */
  readonly directory: string;
  /** Where to write a CPU profile when it ends. */
  readonly profile: string | undefined;
  readonly onEnded: (error: Error) => void;
}

const usageModule = new URL('./usage.ts', import.meta.url).href;

export class Child {
  readonly name: string;
  readonly #process: ChildProcess;
  readonly #ended: Promise<void>;
  #isStopping = false;

  constructor({ name, words, directory, profile, onEnded }: ChildOptions) {
    this.name = name;
    const logPath = join(directory, `${name}.log`);
    const log = openSync(logPath, 'a');
    const profiling =
      profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profile}`, `--cpu-prof-name=${name}.cpuprofile`];
    this.#process = spawn(process.execPath, [...profiling, `--import=${usageModule}`, ...words], {
      stdio: ['ignore', log, log, 'ipc'],
    });
    closeSync(log);
    this.#ended = new Promise((resolve) => this.#process.once('exit', () => resolve()));
    this.#process.once('error', onEnded);
    this.#process.once('exit', (code, signal) => {
      if (!this.#isStopping) onEnded(new Error(`the process "${name}" ended (${signal ?? code}); see ${logPath}`));
    });
  }

  /** The next message of this type. */
  message<T extends { readonly type: string }>(type: T['type']): Promise<T> {
    return new Promise((resolve) => {
      const read = (message: unknown): void => {
        if ((message as { type?: unknown }).type !== type) return;
        this.#process.off('message', read);
        resolve(message as T);
      };
      this.#process.on('message', read);
    });
  }

  usage(): Promise<Usage> {
    const answer = this.message<Usage>('usage');
    this.#process.send('usage');
    return answer;
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    if (this.#process.connected) this.#process.disconnect();
    const late = setTimeout(() => this.#process.kill('SIGKILL'), 30_000);
    await this.#ended;
    clearTimeout(late);
  }
}
