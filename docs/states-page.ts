/**
 * The page of a node's states, made from the table that the operator decides by (controller/domain/states.ts).
 */
import {
  nodeStates,
  type ReclaimTerms,
  reclaimPath,
  type Step,
  type TenancyTerms,
  tenancyPath,
} from '../controller/domain/states.ts';

type StateText = (typeof nodeStates)[number];

/** Any terms will do: the page shows which instruction a row sends, and that depends on the row alone. */
const tenancyTerms: TenancyTerms = {
  allocationUid: '',
  domain: '',
  egress: 'None',
  devirtualize: 'WhenInstalled',
  hostname: '',
  sshKeys: [],
  environment: {
    revision: '',
    os: { family: 'Linux', architecture: 'x86_64' },
    image: { url: '', format: 'Raw', sizeBytes: 0, sha256: '' },
    boot: { firmware: 'Uefi', kernelArguments: [] },
    install: { yield: 'Fair', disk: { media: 'Any', minSizeBytes: 0 } },
    vmm: { dataPorts: 'Passthrough' },
  },
};
const reclaimTerms: ReclaimTerms = { erase: 'Quick', drainSeconds: 0, drainMessage: '', nonce: '' };

function instruction(step: Step | undefined): string {
  if (step === undefined) return '';
  if (step.verb === 'devirtualize') return `devirtualize, ${step.args.phase.toLowerCase()}`;
  return step.verb === 'power' ? `power ${step.args.desired}` : step.verb;
}

const instructions: ReadonlyMap<StateText, string> = new Map<StateText, string>([
  ...tenancyPath.map((row) => [row, instruction(row.step(tenancyTerms))] as const),
  ...reclaimPath.map((row) => [row, instruction(row.step(reclaimTerms))] as const),
]);

function span(seconds: number): string {
  if (seconds === 0) return '';
  if (seconds % 3600 === 0) return `${seconds / 3600} h`;
  return seconds % 60 === 0 ? `${seconds / 60} min` : `${seconds} s`;
}

function table(rows: readonly StateText[]): string {
  const lines = rows.map((row) => {
    const attempts = row.deadlineSeconds === 0 ? '' : String(row.retries + 1);
    const cells = [
      `**${row.state}**`,
      instructions.get(row) ?? '',
      row.endsWhen,
      row.bootOrder,
      row.bootServer,
      span(row.deadlineSeconds),
      attempts,
      row.onFailure,
    ];
    return `| ${cells.map((text) => text.replaceAll('|', '\\|')).join(' | ')} |`;
  });
  const head =
    '| state | instruction | ends when | boot order | boot server answers | deadline | attempts | on failure |';
  return [head, '|---|---|---|---|---|---|---|---|', ...lines].join('\n');
}

export function statesPage(): string {
  const onPath = new Set<StateText>([...tenancyPath, ...reclaimPath]);
  return `${[
    '<!-- Generated from controller/domain/states.ts by docs/generate.ts: run "npm run generate". -->',
    '# The life of a node',
    'A state is left because of what was observed, never because of what was asked for. A state whose deadline passes counts one failed ' +
      'attempt; after the last attempt the node goes where "on failure" says. A node finds its state anew from what is observed: an ' +
      'operator that restarts does nothing twice.',
    '## With a tenant',
    `${tenancyPath.map(({ state }) => state).join(' → ')}`,
    table(tenancyPath),
    '## On the way back',
    `${reclaimPath.map(({ state }) => state).join(' → ')} → Available`,
    table(reclaimPath),
    '## At rest',
    table(nodeStates.filter((row) => !onPath.has(row))),
  ].join('\n\n')}\n`;
}
