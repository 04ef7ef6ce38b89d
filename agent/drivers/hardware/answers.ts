/** Whether something answers at an address of the control network, found out without rights: by a connection that nobody takes. */
import { connect } from 'node:net';
import type { Clock } from '../../../controller/runtime/clock.ts';

const patienceMs = 3_000;
/** The discard service: no hypervisor serves it, and one that is there refuses it. */
const discardPort = 9;

/** A refusal is an answer; silence and "no such host" are none. */
export function answersAt(clock: Clock): (address: string) => Promise<boolean> {
  return (address) =>
    new Promise((resolve) => {
      const socket = connect({ host: address, port: discardPort });
      const end = (answers: boolean): void => {
        cancel();
        socket.destroy();
        resolve(answers);
      };
      const cancel = clock.setTimer(patienceMs, () => end(false));
      socket.once('connect', () => end(true));
      socket.once('error', (error: NodeJS.ErrnoException) =>
        end(error.code === 'ECONNREFUSED' || error.code === 'ECONNRESET'),
      );
    });
}
