/** The shortest client of NBD: asks for an export by name from a given address, and says how large it is. */
import { once } from 'node:events';
import { connect } from 'node:net';
import type { Source } from '../../../agent/drivers/vmm-channel/messages.ts';

/** NBD_OPT_EXPORT_NAME: answered with the size, or by the end of the connection. */
const optExportName = 1;
const greetingBytes = 18;
const noZeroes = 3;

/** Bytes; undefined: it is not for this address, or not there. */
export async function exportSize({ address, name }: Source, localAddress: string): Promise<number | undefined> {
  const [host = '', port] = address.split(':');
  const socket = connect({ host, port: Number(port), localAddress });
  try {
    let got = Buffer.alloc(0);
    let isOver = false;
    socket.on('data', (chunk: Buffer) => {
      got = Buffer.concat([got, chunk]);
    });
    const over = once(socket, 'close').then(() => {
      isOver = true;
    });
    socket.on('error', () => {});
    const until = async (bytes: number): Promise<boolean> => {
      while (got.length < bytes && !isOver) await Promise.race([once(socket, 'data'), over]);
      return got.length >= bytes;
    };
    if (!(await until(greetingBytes))) return undefined;
    const asked = Buffer.alloc(20);
    asked.writeUInt32BE(noZeroes, 0);
    asked.write('IHAVEOPT', 4, 'latin1');
    asked.writeUInt32BE(optExportName, 12);
    asked.writeUInt32BE(name.length, 16);
    socket.write(Buffer.concat([asked, Buffer.from(name)]));
    return (await until(greetingBytes + 10)) ? Number(got.readBigUInt64BE(greetingBytes)) : undefined;
  } finally {
    socket.destroy();
  }
}
