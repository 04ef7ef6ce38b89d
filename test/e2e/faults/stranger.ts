/**
 * Connects to a port on this machine at a rate, for as long as it lives: PORT and RATE as words. Of four connections one says
 * nothing, one sends rubbish, one begins TLS and stops, one completes a handshake without a certificate. Prints its rate.
 */
import { connect, type Socket } from 'node:net';
import process from 'node:process';
import { connect as tlsConnect } from 'node:tls';
import { systemClock } from '../../../controller/runtime/clock.ts';

const [port = 0, rate = 0] = process.argv.slice(2).map(Number);
const host = '127.0.0.1';
/** The first bytes of a handshake that goes no further. */
const hello = Buffer.from('16030100c8010000c40303', 'hex');

function saying(bytes: string | Buffer): Socket {
  const socket = connect(port, host);
  return socket.on('connect', () => socket.write(bytes));
}

const ways: readonly (() => Socket)[] = [
  () => connect(port, host),
  () => saying('GET / HTTP/1.1\r\n\r\n'),
  () => saying(hello),
  () => tlsConnect({ port, host, rejectUnauthorized: false }),
];

let made = 0;
let connected = 0;
const startedAt = systemClock.monotonic();
const tick = (): void => {
  const due = Math.floor(((systemClock.monotonic() - startedAt) / 1000) * rate);
  // Behind by more than a second the rest is let go: a burst of all that was missed would be another test.
  for (made = Math.max(made, due - rate); made < due; made++) {
    const socket = ways[made % ways.length]?.();
    socket?.on('error', () => {});
    socket?.on('connect', () => connected++);
  }
  systemClock.setTimer(10, tick);
};
const tell = (): void => {
  process.stdout.write(`rate ${connected}\n`);
  connected = 0;
  systemClock.setTimer(1000, tell);
};
tick();
systemClock.setTimer(1000, tell);
