/**
 * A process of the benchmark: all agents, over real TLS, with machines that need no time for anything and nothing kept on disk.
 * `node bench/agents.ts PKI_DIR RACKS NODES_PER_RACK`; tells its parent the endpoints and ends with it.
 */
import process from 'node:process';
import { type AgentsLog, startAgents } from '../agent/main.ts';
import { systemClock } from '../controller/runtime/clock.ts';
import { systemRandom } from '../controller/runtime/random.ts';
import { CertificateAuthority } from '../controller/standalone/pki.ts';
import { hall } from './hall.ts';

const [pkiDirectory, racks, nodesPerRack] = process.argv.slice(2);
if (pkiDirectory === undefined) throw new Error('usage: node bench/agents.ts PKI_DIR RACKS NODES_PER_RACK');
const authority = await CertificateAuthority.open(pkiDirectory, systemClock);
const log: AgentsLog = {
  info: () => {},
  warn: () => {},
  error: (fields, message) => void process.stderr.write(`${message} ${JSON.stringify(fields)}\n`),
};
const running = await startAgents({
  racks: hall(Number(racks), Number(nodesPerRack)),
  // What the machines did is for tests; keeping it would count as the agents' memory.
  room: { zeroDelays: true, spread: 0, historyLimit: 0 },
  tls: async ({ name }) => {
    const { certificatePem, keyPem } = await authority.namedServerCertificate(name);
    return { caPem: authority.caPem, certPem: certificatePem, keyPem };
  },
  clock: systemClock,
  random: systemRandom,
  log,
});
// Ctrl-C reaches every process of the terminal; this one leaves when its parent has finished with it.
process.on('SIGINT', () => {});
process.on('disconnect', () => void running.close().finally(() => process.exit(0)));
process.send?.({ type: 'started', endpoints: Object.fromEntries(running.endpoints) });
