/**
 * A process of the benchmark: the standalone API server, with the settings that `bitvisor-operator standalone` uses.
 * `node bench/server.ts DATA_DIR`; tells its parent the kubeconfig's path and ends with it.
 */
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { readCrds } from '../controller/gitops/validate.ts';
import { systemClock } from '../controller/runtime/clock.ts';
import { systemRandom } from '../controller/runtime/random.ts';
import { startStandalone } from '../controller/standalone/server.ts';

const [dataDir] = process.argv.slice(2);
if (dataDir === undefined) throw new Error('usage: node bench/server.ts DATA_DIR');
const server = await startStandalone({
  dataDir,
  port: 0,
  crds: await readCrds(fileURLToPath(new URL('../crds', import.meta.url))),
  clock: systemClock,
  random: systemRandom,
});
// Ctrl-C reaches every process of the terminal; this one leaves when its parent has finished with it.
process.on('SIGINT', () => {});
process.on('disconnect', () => void server.close().finally(() => process.exit(0)));
process.send?.({ type: 'started', kubeconfigPath: server.kubeconfigPath });
