#!/usr/bin/env node
/**
 * The program `bitvisor-operator`: reads flags and the environment, and puts the parts together.
 *
 * Invariants:
 * 1. Nothing else reads flags, the environment or the machine's clock: they are handed on from here.
 * 2. What a subcommand needs is loaded when it runs, so that `--help` and `validate` answer at once.
 */
import { mkdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { Command, Option } from 'commander';
import {
  blockSize,
  CliError,
  count,
  dnsLabel,
  nodeCount,
  port,
  seconds,
  sha256,
  share,
  timeFactor,
} from './cli/arguments.ts';
import type { ControllerFlags } from './cli/controller.ts';
import type { ImageContext, PackFlags, ServerFlags, VerifyFlags } from './cli/image.ts';
import type { LabFlags } from './cli/lab.ts';
import type { StandaloneContext, StandaloneFlags } from './cli/standalone.ts';
import { addEnrolCommands, addTrustedImageCommands } from './cli/trust-commands.ts';
import { systemClock } from './runtime/clock.ts';
import type { Logger, LogLevel } from './runtime/log.ts';
import { systemRandom } from './runtime/random.ts';

const startedAt = systemClock.monotonic();
const path = (relativeToHere: string): string => fileURLToPath(new URL(relativeToHere, import.meta.url));
const crdDirectory = path('../crds/');
const { version } = JSON.parse(readFileSync(path('../package.json'), 'utf8')) as { version: string };
/** A third of the grace that the charts give a pod. */
const longestFarewellMs = 10_000;
const logLevels = ['debug', 'info', 'warn', 'error', 'silent'] as const;

/** Aborted by SIGINT, SIGTERM and, where this process is a child with a channel, by the parent's end. */
function untilToldToEnd(): AbortSignal {
  const controller = new AbortController();
  const isChild = process.send !== undefined;
  const end = (): void => {
    // The second time somebody is impatient.
    if (controller.signal.aborted) process.exit(130);
    controller.abort(new Error('told to end'));
    // An API server or agent that does not answer must not keep this process; everything durable is written already.
    setTimeout(() => process.exit(1), longestFarewellMs).unref();
  };
  process.on('SIGTERM', end);
  // Ctrl-C reaches every process of the terminal; a child leaves when its parent has finished with it.
  process.on('SIGINT', isChild ? () => {} : end);
  if (isChild) process.on('disconnect', end);
  // `npm start | head`: nobody reads any more.
  process.stdout.on('error', end);
  return controller.signal;
}

async function openLog(level: LogLevel, file?: string): Promise<Logger> {
  const [{ createLogger }, { default: pino }] = await Promise.all([import('./runtime/log.ts'), import('pino')]);
  const destination = file === undefined ? {} : { destination: pino.destination({ dest: file, mode: 0o600 }) };
  return createLogger({ level, clock: systemClock, ...destination });
}

const logLevel = (): Option =>
  new Option('--log-level <level>', 'least severe lines that are logged').choices(logLevels).default('info');

/** @throws CliError that names the data directory */
async function standaloneContext(
  { dataDir, logLevel }: { readonly dataDir: string; readonly logLevel: LogLevel },
  signal: AbortSignal,
): Promise<StandaloneContext> {
  const logs = join(dataDir, 'log');
  try {
    mkdirSync(logs, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw new CliError(`--data-dir: ${error instanceof Error ? error.message : error}`);
  }
  return {
    clock: systemClock,
    random: systemRandom,
    log: await openLog(logLevel, join(logs, 'operator.log')),
    signal,
    environment: process.env,
    output: process.stdout,
    version,
    crdDirectory,
    program: [process.execPath, ...process.execArgv, process.argv[1] ?? path('main.ts')],
    startedAt,
  };
}

const examples = (...lines: string[]): string => ['', 'Examples:', ...lines.map((line) => `  ${line}`)].join('\n');

const program = new Command('bitvisor-operator')
  .description(
    'Gives tenants exclusive bare-metal nodes: picks them, isolates them, boots the image of their choice through BitVisor, ' +
      'and takes the hypervisor away once the disk is local. Declared in YAML, by git or kubectl.',
  )
  .version(version)
  .showHelpAfterError('(--help shows what can be written here)')
  .configureHelp({ showGlobalOptions: false })
  .addHelpText(
    'after',
    examples(
      'bitvisor-operator standalone                     a whole simulated site on this machine; start here',
      'bitvisor-operator lab                            the same with machines that QEMU plays, and real guests',
      'bitvisor-operator validate my-site/              check manifests before they are committed',
      'bitvisor-operator controller --agents-tls DIR    the operator for a Kubernetes cluster',
      'bitvisor-operator image pack disk.raw            make the digest tree of an image',
      'bitvisor-operator help standalone                more about one of them',
    ),
  );

program
  .command('standalone')
  .description(
    'Start an API server, the operator and a simulated machine room here, and follow a git repository that is made from an example.',
  )
  .option('--data-dir <dir>', 'where everything is kept; a second start continues from it', 'data')
  .option('--port <port>', 'of the API server (default: the last one, else 6443, else a free one)', port)
  .option('--time-factor <n>', 'how many times faster than real the simulated machines are', timeFactor, 60)
  .option(
    '--example <dir>',
    'folder of manifests that a new repository is made from',
    relative('.', path('../examples/tsubame2')),
  )
  .option('--until-ready', 'end with 0 when every allocation has what its spec asks for, with 1 when not in time')
  .option('--timeout <seconds>', 'how long --until-ready waits', seconds, 300)
  .addOption(logLevel())
  .addHelpText(
    'after',
    examples(
      'bitvisor-operator standalone',
      'bitvisor-operator standalone --data-dir /tmp/site --example examples/minimal --until-ready',
      'bitvisor-operator standalone --time-factor 1     as slow as real machines',
      'KUBECONFIG=data/kubeconfig kubectl get nodeallocations -A',
      "git -C data/repository commit -am 'More nodes'",
    ),
  )
  .action(async (flags: StandaloneFlags & { logLevel: LogLevel }) => {
    const signal = untilToldToEnd();
    const { runStandalone } = await import('./cli/standalone.ts');
    process.exitCode = await runStandalone(flags, await standaloneContext(flags, signal));
  });

program
  .command('lab')
  .description(
    'Start a site like standalone, whose machines QEMU plays: real guests boot, are isolated and devirtualized. Needs root.',
  )
  .option('--data-dir <dir>', 'where everything is kept; a second start continues from it', 'lab-data')
  .option('--nodes <n>', 'machines of a new site, 200 MB of memory each', nodeCount, 4)
  .option('--port <port>', 'of the API server (default: the last one, else 6443, else a free one)', port)
  .option(
    '--example <dir>',
    "folder of manifests that a new repository is made from (default: the lab's own two tenants)",
  )
  .option('--tpm', 'machines have a TPM and are attested by what it signs, not by token alone; needs swtpm and ovmf')
  .option('--until-ready', 'end with 0 when every allocation has what its spec asks for, with 1 when not in time')
  .option('--timeout <seconds>', 'how long --until-ready waits', seconds, 600)
  .addOption(logLevel())
  .addHelpText(
    'after',
    examples(
      'bitvisor-operator lab',
      'bitvisor-operator lab --tpm',
      'bitvisor-operator lab --nodes 2 --data-dir /tmp/lab --until-ready',
      'KUBECONFIG=lab-data/kubeconfig kubectl get physicalnodes',
    ),
  )
  .action(async (flags: LabFlags & { logLevel: LogLevel }) => {
    const signal = untilToldToEnd();
    const { runLab } = await import('./cli/lab.ts');
    process.exitCode = await runLab(flags, {
      ...(await standaloneContext(flags, signal)),
      isRoot: process.getuid?.() === 0,
    });
  });

program
  .command('controller')
  .description('Run the operator for a Kubernetes cluster. Several may run: one leads, the others wait.')
  .requiredOption(
    '--agents-tls <dir>',
    'ca.crt (who signs agents), tls.crt and tls.key (the certificate shown to agents)',
  )
  .option('--kubeconfig <file>', "default: $KUBECONFIG, ~/.kube/config, then the pod's service account")
  .option('--context <name>', 'a context of the kubeconfig other than its current one')
  .option('--namespace <name>', 'of the Lease and of the records of --git-repository', dnsLabel, 'bitvisor-system')
  .option('--identity <name>', "who this is on the Lease (default: the host's name)")
  .option('--metrics-port <port>', 'serve /metrics for Prometheus', port)
  .option('--health-port <port>', 'serve /healthz and /readyz', port)
  .option('--drain-seconds <seconds>', 'how long a guest may take to shut down before power is cut', seconds, 300)
  .optionsGroup('What waits for a person:')
  .option('--hold-allocations <n>', 'deletions are held when more than these allocations ...', count, 3)
  .option('--hold-share <share>', '... with more than this share (0 to 1) of the nodes in use ...', share, 0.1)
  .option('--hold-window <seconds>', '... are deleted within this time', seconds, 600)
  .option('--failure-share <share>', 'failed nodes are handled automatically up to this share of all ...', share, 0.05)
  .option('--failure-minimum <n>', '... or this number, whichever is more ...', count, 2)
  .option('--failure-window <seconds>', '... within this time', seconds, 600)
  .optionsGroup('GitOps without Argo CD or Flux:')
  .option('--git-repository <address>', 'follow this repository: an absolute path, https:// or ssh://')
  .option('--git-branch <name>', 'the branch that counts', 'main')
  .option('--git-path <path>', 'below the root of the repository (default: all of it)')
  .option('--git-interval <seconds>', 'between looks at the repository', seconds, 60)
  .option('--git-username <name>', 'for https (default: git)')
  .option('--git-password-file <file>', 'file with the password or token for https')
  .option('--git-ca <file>', 'authorities of the https server (PEM), where the machine does not know them')
  .option('--git-ssh-key <file>', 'private key for ssh')
  .option('--git-known-hosts <file>', 'host keys for ssh; unknown hosts are refused')
  .optionsGroup('Options:')
  .addOption(logLevel())
  .addHelpText(
    'after',
    examples(
      'bitvisor-operator controller --agents-tls /etc/bitvisor/agents-tls --metrics-port 8080 --health-port 8081',
      'bitvisor-operator controller --agents-tls ./tls --kubeconfig ~/.kube/config --context lab',
      'bitvisor-operator controller --agents-tls ./tls --git-repository https://git.example/site.git --git-path clusters/lab',
    ),
  )
  .action(async (flags: ControllerFlags & { logLevel: LogLevel }) => {
    const signal = untilToldToEnd();
    const { runController } = await import('./cli/controller.ts');
    const code = await runController(flags, {
      clock: systemClock,
      random: systemRandom,
      log: await openLog(flags.logLevel),
      signal,
      environment: process.env,
      version,
      crdDirectory,
      cacheDirectory: join(tmpdir(), 'bitvisor-operator-git'),
    });
    // At once: connections and timers of a process that lost leadership must not outlive it.
    process.exit(code);
  });

const trust = {
  print: (line: string): void => void process.stdout.write(`${line}\n`),
  now: () => new Date(systemClock.now()).toISOString(),
};

const agents = program
  .command('agent')
  .description(
    'Run agents, each with its own port, certificate and log; their machines are simulated, played by QEMU, or real.',
  )
  .requiredOption('--config <file>', 'YAML or JSON; see the example below')
  .addOption(logLevel())
  .addHelpText(
    'after',
    `
Example of a configuration (paths are relative to the file, {name} stands for the agent's name):
  dataDir: racks                  # absent: nothing outlives the process
  tls: { ca: pki/ca.crt, certificate: "pki/{name}.crt", key: "pki/{name}.key" }
  operator: bitvisor-operator     # common name of the operator's certificate
  room: { timeFactor: 60, failureRates: { guestBoot: 0.01 }, faultRates: { bmcHang: 0.01, reset: 2 } }
  racks:
    - { name: rack0, site: lab, rack: rack0, nodes: "n[0-3]", storeId: rack0-store, port: 17400 }

Examples:
  bitvisor-operator agent --config room.yaml`,
  )
  .action(async (flags: { config: string; logLevel: LogLevel }) => {
    const signal = untilToldToEnd();
    const { runAgents } = await import('./cli/agents.ts');
    await runAgents(flags.config, {
      clock: systemClock,
      random: systemRandom,
      log: await openLog(flags.logLevel),
      signal,
      onListening: (endpoints) => process.send?.({ type: 'listening', endpoints: Object.fromEntries(endpoints) }),
    });
    process.exit(0);
  });
addEnrolCommands(agents, trust);
addTrustedImageCommands(program, trust);

program
  .command('validate')
  .description('Check manifests against the CRDs, without a server. Ends with 1 when something is wrong.')
  .argument('<path...>', 'files or folders; what they define must fit together')
  .option('--namespace <name>', 'of objects whose file names none', dnsLabel, 'default')
  .addHelpText(
    'after',
    examples(
      'bitvisor-operator validate site/',
      'bitvisor-operator validate examples/tsubame2/cfd.yaml',
      'git diff --cached --name-only -- "*.yaml" | xargs -r bitvisor-operator validate     as a pre-commit hook',
    ),
  )
  .action(async (paths: string[], flags: { namespace: string }) => {
    const { runValidate } = await import('./cli/validate.ts');
    const print = (line: string): void => void process.stdout.write(`${line}\n`);
    process.exitCode = await runValidate(paths, { crdDirectory, defaultNamespace: flags.namespace, print });
  });

/** Runs a subcommand of `image`; who ends it with Ctrl-C gets no stack. */
async function image(
  run: (commands: typeof import('./cli/image.ts'), context: ImageContext) => Promise<number>,
): Promise<void> {
  const signal = untilToldToEnd();
  const print = (line: string): void => void process.stdout.write(`${line}\n`);
  try {
    const context = { signal, clock: systemClock, print, terminal: process.stderr };
    process.exitCode = await run(await import('./cli/image.ts'), context);
  } catch (error) {
    if (!signal.aborted) throw error;
    process.exitCode = 130;
  }
}

/** Commander keeps an option's state: each command gets one of its own. */
const imageAuthorities = (): Option =>
  new Option('--ca <file>', 'authorities (PEM) to believe an https:// server by, in place of those that Node knows');

const images = program
  .command('image')
  .description('Make, read and check the digest trees by which racks verify images block by block.');

images
  .command('pack')
  .description('Make the digest tree of a raw image beside it, and print the digest for the ComputeEnvironment.')
  .argument('<file>', 'raw image of a disk')
  .option('--block-size <size>', 'what is verified and fetched at a time, 4Ki to 1Mi', blockSize, 65_536)
  .option('--force', 'replace the tree of another image of this name')
  .addHelpText('after', examples('bitvisor-operator image pack rocky-9.4.raw'))
  .action((file: string, flags: PackFlags) => image(({ runImagePack }, context) => runImagePack(file, flags, context)));

images
  .command('inspect')
  .description('Show what a digest tree says of its image.')
  .argument('<image>', 'file or https:// address of the image or of its tree')
  .addOption(imageAuthorities())
  .addHelpText('after', examples('bitvisor-operator image inspect https://images.example/rocky-9.4.raw'))
  .action((place: string, flags: ServerFlags) =>
    image(({ runImageInspect }, context) => runImageInspect(place, flags, context)),
  );

images
  .command('verify')
  .description('Read an image whole and check that it is what a digest names. Ends with 1 when it is not.')
  .argument('<image>', 'file or https:// address')
  .option(
    '--digest <sha256>',
    'spec.image.sha256 of an environment (default: that of the tree beside the image)',
    sha256,
  )
  .addOption(imageAuthorities())
  .addHelpText('after', examples('bitvisor-operator image verify rocky-9.4.raw --digest 9f86d081...'))
  .action((place: string, flags: VerifyFlags) =>
    image(({ runImageVerify }, context) => runImageVerify(place, flags, context)),
  );

try {
  await program.parseAsync();
} catch (error) {
  // A mistake of the person gets a sentence; a fault of the program gets its stack, for the report of it.
  const text = error instanceof CliError ? error.message : error instanceof Error ? error.stack : String(error);
  process.stderr.write(`error: ${text}\n`);
  process.exit(1);
}
