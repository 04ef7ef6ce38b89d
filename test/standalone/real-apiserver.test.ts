/**
 * The suite that the embedded server passes, against a real kube-apiserver: where both pass, they agree.
 */
import { test } from 'node:test';
import { apiContract } from '../contract/api.ts';
import { realTarget } from '../support/api-target.ts';
import { kubebuilderAssets } from '../support/kube-apiserver.ts';
import { gadgetCrd, widgetCrd } from '../support/widget-crds.ts';

if (kubebuilderAssets() !== undefined || process.env.KUBECONFIG_FOR_TESTS) {
  apiContract('a real kube-apiserver', async () => {
    const target = await realTarget([widgetCrd, gadgetCrd]);
    if (target === undefined) throw new Error('neither KUBEBUILDER_ASSETS nor KUBECONFIG_FOR_TESTS names a server');
    return target;
  });
} else {
  const reason =
    'NOT RUN against a real kube-apiserver: set KUBEBUILDER_ASSETS to a directory with etcd and kube-apiserver, or ' +
    'KUBECONFIG_FOR_TESTS to the kubeconfig of a cluster for tests';
  test('API semantics: a real kube-apiserver', { skip: reason }, () => {});
}
