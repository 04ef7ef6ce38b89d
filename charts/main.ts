/**
 * Synthesizes the manifests that a cluster's administrator applies: `node charts/main.ts` writes charts/manifests/, and
 * `node charts/main.ts --check` exits with 1 when a committed one is stale.
 */
import { readFileSync } from 'node:fs';
import { App, type Chart, Yaml } from 'cdk8s';
import { generate } from '../tools/generated.ts';
import { CrdsChart } from './crds.ts';
import { OperatorChart, OperatorClusterChart } from './operator.ts';

const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
  version: string;
};
const app = new App();
const banner = (source: string): string => `# Synthesized from ${source} by charts/main.ts: run "npm run generate".\n`;
const text = (...charts: Chart[]): string => Yaml.stringify(...charts.flatMap((chart) => chart.toJson() as object[]));

generate({
  'charts/manifests/crds.yaml': banner('crds/*.yaml') + text(new CrdsChart(app, 'crds')),
  'charts/manifests/operator.yaml':
    banner('charts/operator.ts and charts/rbac.ts') +
    text(
      new OperatorClusterChart(app, 'operator-cluster'),
      new OperatorChart(app, 'operator', { image: `bitvisor-operator:${version}` }),
    ),
});
