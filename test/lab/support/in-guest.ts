/** Commands in a lab guest, as root, over its serial console. */
import { Console, NotBegun } from '../../../agent/drivers/qemu/console.ts';
import { systemClock as clock } from '../../../controller/runtime/clock.ts';

const beginMs = 5_000;

/**
 * Runs a command once. A guest that began with it is waited for: one that got the same command twice would fall behind.
 * @param path of the console's socket
 * @returns its output; undefined when the guest did not begin with it, or is not there
 */
export async function tryInGuest(path: string, command: string, patienceMs: number): Promise<string | undefined> {
  // One client at a time: each command has a connection of its own.
  const console = await Console.connect(path, clock).catch(() => undefined);
  try {
    return (await console?.run(command, patienceMs, beginMs))?.output;
  } catch (error) {
    if (!(error instanceof NotBegun)) throw error;
    return undefined;
  } finally {
    console?.close();
  }
}
