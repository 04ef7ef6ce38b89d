/** A TCP relay that can stop forwarding without a word: the other end vanished, and no FIN or RST ever says so. */
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

export class FrozenRelay {
  readonly #server: Server;
  readonly #pairs = new Set<{ near: Socket; far: Socket; frozen: boolean }>();
  /** What was dropped since the freeze. */
  droppedBytes = 0;

  private constructor(server: Server) {
    this.#server = server;
  }

  /** `https://127.0.0.1:port`, in front of the same kind of address. */
  static async before(endpoint: string): Promise<FrozenRelay> {
    const target = Number(new URL(endpoint).port);
    const server = createServer();
    const relay = new FrozenRelay(server);
    server.on('connection', (near) => relay.#take(near, connect(target, '127.0.0.1')));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return relay;
  }

  get endpoint(): string {
    return `https://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  #take(near: Socket, far: Socket): void {
    const pair = { near, far, frozen: false };
    this.#pairs.add(pair);
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      from.on('error', () => {});
      from.on('data', (bytes: Buffer) => {
        if (pair.frozen) this.droppedBytes += bytes.length;
        else to.write(bytes);
      });
      from.on('close', () => {
        if (!pair.frozen) to.destroy();
      });
    }
  }

  /** From now on nothing passes over the connections of now; later ones are forwarded. */
  freeze(): void {
    for (const pair of this.#pairs) pair.frozen = true;
  }

  /** Connections that pass. */
  open(): number {
    return [...this.#pairs].filter(({ far, frozen }) => !frozen && !far.destroyed).length;
  }

  /** Connections of before the freeze that the server's side has given up. */
  givenUp(): number {
    return [...this.#pairs].filter(({ far, frozen }) => frozen && far.destroyed).length;
  }

  frozen(): number {
    return [...this.#pairs].filter(({ frozen }) => frozen).length;
  }

  close(): void {
    this.#server.close();
    for (const { near, far } of this.#pairs) {
      near.destroy();
      far.destroy();
    }
  }
}
