/**
 * The embedded API server in a process of its own, so that it can be killed without the operator: DATA_DIR and PORT as words.
 */
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { readCrds } from '../../../controller/gitops/validate.ts';
import { systemClock } from '../../../controller/runtime/clock.ts';
import { createLogger } from '../../../controller/runtime/log.ts';
import { systemRandom } from '../../../controller/runtime/random.ts';
import { startStandalone } from '../../../controller/standalone/server.ts';

const [dataDir = '', port = '0'] = process.argv.slice(2);
const server = await startStandalone({
  dataDir,
  port: Number(port),
  crds: await readCrds(fileURLToPath(new URL('../../../crds/', import.meta.url))),
  clock: systemClock,
  random: systemRandom,
  log: createLogger({ level: 'warn', clock: systemClock }),
});
process.stdout.write(`listening ${server.port}\n`);
