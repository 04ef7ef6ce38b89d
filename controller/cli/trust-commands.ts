/** Subcommands about what a reclaim believes: `agent enrol`, `agent enrolled`, and `trusted-image`. Light: it is loaded for `--help` too. */
import type { Command } from 'commander';

export interface TrustContext {
  readonly print: (line: string) => void;
  /** ISO 8601. */
  readonly now: () => string;
}

const several = (value: string, before: readonly string[]): string[] => [...before, value];

/** @param agent the command `agent`, whose `--config` they share */
export function addEnrolCommands(agent: Command, { print, now }: TrustContext): void {
  agent
    .command('enrol')
    .usage('--config FILE [options] NODES')
    .description(
      "Permit that the TPMs of nodes are enrolled, each once, in the node's next trusted boot. Run it as the agent's user, on its host.",
    )
    .argument('<nodes>', 'hostlist')
    .option('--keys <file>', 'lines of "NODE SHA256": what the endorsement keys have to be, as from a delivery list')
    .addHelpText(
      'after',
      '\nExamples:\n  bitvisor-operator agent enrol --config rack.yaml "r0n[00-31]"\n' +
        '  bitvisor-operator agent enrol --config rack.yaml r0n07 --keys delivery.txt',
    )
    .action(async (nodes: string, _flags: object, command: Command) => {
      const { runEnrol } = await import('./enrol.ts');
      runEnrol(nodes, command.optsWithGlobals<{ config: string; keys?: string }>(), { print, now: now() });
    });
  agent
    .command('enrolled')
    .usage('--config FILE')
    .description('Show which TPM each node was enrolled with.')
    .action(async (_flags: object, command: Command) => {
      const { runEnrolled } = await import('./enrol.ts');
      runEnrolled(command.optsWithGlobals<{ config: string }>(), { print, now: now() });
    });
}

export function addTrustedImageCommands(program: Command, { print }: TrustContext): void {
  const trusted = program
    .command('trusted-image')
    .description('Build the image that wipes machines between tenants, and the reference values of its measured boot.');
  const loader = [
    '--loader <file>',
    'EFI program that firmware loads before it, such as an iPXE by TFTP; again for each, in order',
    several,
    [] as string[],
  ] as const;
  trusted
    .command('build')
    .description('Build it from Debian packages, for machines of the lab.')
    .argument('<dir>', 'where it is kept')
    .option(...loader)
    .action(async (directory: string, flags: { loader: string[] }) => {
      const { runTrustedBuild } = await import('./trusted-image.ts');
      await runTrustedBuild(directory, flags.loader, print);
    });
  trusted
    .command('measure')
    .description('Write the reference values of an image beside it.')
    .argument('<file>', 'the image in one file: an EFI stub with kernel and initramfs')
    .option(...loader)
    .addHelpText('after', '\nExamples:\n  bitvisor-operator trusted-image measure trusted.efi --loader ipxe.efi')
    .action(async (file: string, flags: { loader: string[] }) => {
      const { runMeasure } = await import('./trusted-image.ts');
      runMeasure(file, flags.loader, print);
    });
}
