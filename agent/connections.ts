/**
 * Who may hold a connection to the agent: strangers are bounded in number and time, and cannot keep the operator out.
 *
 * Invariants:
 * 1. At most `mostStrangers` connections that have not shown the operator's certificate are open, and at most `mostKnown` that have.
 * 2. The newest connection is always let in; the oldest of its group makes room for it. Whoever opens 1,000 connections a second
 *    pushes out their own, and an operator that vanished without a word cannot keep its successor out.
 */
import type { Server } from 'node:https';
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';

/** At 1,000 connects a second each has a quarter of a second for its handshake, which takes some milliseconds. */
const mostStrangers = 256;
/** Two a link and leader; the rest is room for connections whose other end vanished. */
const mostKnown = 32;

/** `isKnown`: the connection's certificate is the operator's. */
export function boundConnections(server: Server, isKnown: (socket: TLSSocket) => boolean): void {
  // In order of their coming: a Map keeps it.
  const strangers = new Map<string, Socket>();
  const known = new Map<string, Socket>();
  const nameOf = ({ remoteAddress, remotePort }: Socket): string => `${remoteAddress}|${remotePort}`;
  const admit = (group: Map<string, Socket>, name: string, socket: Socket, most: number): void => {
    group.set(name, socket);
    for (const [oldest, victim] of group) {
      if (group.size <= most) break;
      group.delete(oldest);
      victim.destroy();
    }
  };
  const take = (socket: Socket, group: Map<string, Socket>, most: number): void => {
    const name = nameOf(socket);
    admit(group, name, socket, most);
    socket.once('close', () => {
      if (group.get(name) === socket) group.delete(name);
    });
  };
  server.on('connection', (socket: Socket) => take(socket, strangers, mostStrangers));
  server.on('secureConnection', (socket: TLSSocket) => {
    if (!isKnown(socket)) return;
    strangers.delete(nameOf(socket));
    take(socket, known, mostKnown);
  });
}
