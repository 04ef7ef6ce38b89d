/** A process of the plant: started, signalled, awaited; what it wrote is kept for the message of a test that fails. */
import { type ChildProcess, spawn } from 'node:child_process';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../..', import.meta.url));

export type Ended = number | NodeJS.Signals | null;

export class Service {
  readonly #child: ChildProcess;
  readonly ended: Promise<Ended>;
  output = '';

  /** `shell`: what is done to the process itself before the program begins (a limit, a namespace). */
  constructor(words: readonly string[], shell?: string) {
    const [command, args] =
      shell === undefined
        ? [process.execPath, [...words]]
        : ['/bin/sh', ['-c', `${shell}\nexec "$0" "$@"`, process.execPath, ...words]];
    this.#child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream?.on('data', (chunk: Buffer) => {
        this.output += chunk.toString();
      });
    this.ended = new Promise((resolve) => this.#child.once('exit', (code, signal) => resolve(code ?? signal)));
  }

  get isRunning(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async end(signal: NodeJS.Signals): Promise<Ended> {
    if (this.isRunning) this.signal(signal);
    // One that stands still takes no other signal to its end.
    if (signal !== 'SIGKILL') this.signal('SIGCONT');
    return this.ended;
  }
}
