/** The agent's side of the trusted image on a port of this machine, for one node, and files to boot from. */
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { TestContext } from 'node:test';
import { TrustedBoots } from '../../agent/drivers/boot/trusted.ts';
import { systemClock } from '../../controller/runtime/clock.ts';
import { systemRandom } from '../../controller/runtime/random.ts';

export interface TrustedServer {
  readonly boots: TrustedBoots;
  readonly port: number;
  /** The node's trusted image reported. */
  readonly up: Promise<void>;
}

/** @param files what else is served: a text, or the path of a file, by the path of the request */
export async function trustedServer(
  t: TestContext,
  node: string,
  files: ReadonlyMap<string, { readonly text: string } | { readonly path: string }> = new Map(),
): Promise<TrustedServer> {
  let isUp: () => void = () => {};
  const up = new Promise<void>((resolve) => {
    isUp = resolve;
  });
  const boots = new TrustedBoots({
    clock: systemClock,
    random: systemRandom,
    onChange: () => boots.read(node).up && isUp(),
  });
  const server = createServer((request, response) => {
    const file = files.get(request.url ?? '');
    if (file !== undefined && 'path' in file) createReadStream(file.path).pipe(response);
    else if (file !== undefined) response.end(file.text);
    else {
      boots.handle(request, response).then(
        (was) => was || response.writeHead(404).end(),
        () => response.destroy(),
      );
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    boots.end(node);
    server.close();
    server.closeAllConnections();
  });
  return { boots, port: (server.address() as AddressInfo).port, up };
}
