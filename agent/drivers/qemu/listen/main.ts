/**
 * Started inside a rack's network namespace: listens at each `index,host,port` of its arguments and hands the listening sockets to
 * its parent, in whose namespace those addresses do not exist. Ends when the parent has them all.
 */
import { createServer } from 'node:net';
import process from 'node:process';

const places = process.argv.slice(2).map((place) => place.split(','));
let left = places.length;
process.on('message', () => {
  left--;
  if (left === 0) process.disconnect();
});
for (const [index, host, port] of places) {
  const server = createServer();
  server.on('error', (error) => {
    process.stderr.write(`${host}:${port}: ${error.message}\n`);
    process.exit(1);
  });
  server.listen({ host, port: Number(port) }, () => {
    process.send?.(index, server, undefined, () => server.close());
  });
}
