/**
 * One QEMU machine with plain disks for tests of a guest image: no rack, no agent.
 *
 * Invariant: the process and its files are gone when the test is over.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext, TestOptions } from 'node:test';
import { Console } from '../../agent/drivers/qemu/console.ts';
import { systemClock } from '../../controller/runtime/clock.ts';
import { needs } from '../support/programs.ts';

/** Patience for a guest on a busy machine without hardware virtualization. */
export const bootMs = 90_000;

/** Options of a test that starts such machines. */
export const machineOptions = (...programs: readonly string[]): TestOptions => ({
  ...needs(...programs),
  timeout: 5 * bootMs,
});

/** Programs that building the images takes, besides apt and dpkg. */
export const imageTools = ['qemu-system-x86_64', 'mke2fs', 'mkfs.fat', 'mcopy', 'syslinux'] as const;

/** Where built images stay between runs. */
export const imageDirectory = join(tmpdir(), 'bitvisor-lab-images');

export interface OneMachine {
  readonly console: Console;
  /** Power is cut. */
  off(): Promise<void>;
  /** Resolves when QEMU ended by itself, as after poweroff. */
  readonly ended: Promise<unknown>;
}

/** Removed when the test is over. */
export async function ownDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'lab-machine-'));
  t.after(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** Starts it; `args` are QEMU's, for disks, network and firmware. @param netns network namespace; absent: that of the test */
export async function startMachine(t: TestContext, args: readonly string[], netns?: string): Promise<OneMachine> {
  const path = join(await ownDirectory(t), 'serial');
  const [program, ...before] = [...(netns === undefined ? [] : ['ip', 'netns', 'exec', netns]), 'qemu-system-x86_64'];
  const child = spawn(
    program ?? '',
    [
      ...before,
      ...[
        '-accel',
        'tcg',
        '-machine',
        'q35,graphics=off',
        '-cpu',
        'max',
        '-m',
        '128',
        '-display',
        'none',
        '-nodefaults',
      ],
      // The guest starts once the console is there, so that nothing it prints is lost.
      ...['-chardev', `socket,id=serial,path=${path},server=on,wait=on`, '-serial', 'chardev:serial', ...args],
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let complaint = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaint += text;
  });
  const ended = once(child, 'exit');
  const off = async (): Promise<void> => {
    child.kill('SIGKILL');
    await ended;
  };
  t.after(off);
  const console = await firstConsole(path, () => {
    if (child.exitCode !== null) throw new Error(`QEMU ended at once: ${complaint}`);
  });
  t.after(() => console.close());
  return { console, off, ended };
}

async function firstConsole(path: string, stillRuns: () => void): Promise<Console> {
  for (let tries = 0; ; tries += 1) {
    try {
      return await Console.connect(path, systemClock);
    } catch (error) {
      stillRuns();
      if (tries === 200) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}
