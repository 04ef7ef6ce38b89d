/**
 * Started inside a rack's network namespace: carries connections to the agent from the address of a machine's control port, as a hypervisor with a
 * TCP stack of its own would make them. Arguments: directory of sockets, the agent's address, the machine's, ports.
 */
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import process from 'node:process';

const [directory = '', agent = '', machine = '', ...ports] = process.argv.slice(2);
for (const port of ports) {
  createServer((near) => {
    const far = connect({ host: agent, port: Number(port), localAddress: machine });
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      one.on('error', () => other.destroy());
      one.on('close', () => other.destroy());
      one.pipe(other);
    }
  }).listen(join(directory, port), () => process.stdout.write('carrying\n'));
}
