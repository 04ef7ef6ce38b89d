/**
 * Discovery: which groups, versions and resources there are, as clients ask before they do anything else.
 */
import { apiVersionOf, type ResourceDefinition, type ResourceRegistry } from './resources.ts';
import type { JsonObject } from './schema/types.ts';

/** The release of Kubernetes whose behaviour this server follows; `kubectl version` shows it. */
export const followedVersion = { major: '1', minor: '35', gitVersion: 'v1.35.0+bitvisor-standalone' };

/** Reviews that are answered without being stored: group/version → plural → kind. */
export const reviewResources: Record<string, Record<string, string>> = {
  'authorization.k8s.io/v1': {
    selfsubjectaccessreviews: 'SelfSubjectAccessReview',
    selfsubjectrulesreviews: 'SelfSubjectRulesReview',
  },
  'authentication.k8s.io/v1': { selfsubjectreviews: 'SelfSubjectReview' },
};

const readVerbs = ['get', 'list', 'watch'];
const writeVerbs = ['create', 'delete', 'deletecollection', 'patch', 'update'];

function resourceEntries(definition: ResourceDefinition): JsonObject[] {
  const { plural, singular, namespaced, kind, shortNames, categories } = definition;
  const writable = definition.readOnly === undefined;
  const main: JsonObject = {
    name: plural,
    singularName: singular,
    namespaced,
    kind,
    verbs: writable ? [...readVerbs, ...writeVerbs].toSorted() : readVerbs,
    ...(shortNames.length > 0 ? { shortNames: [...shortNames] } : {}),
    ...(categories.length > 0 ? { categories: [...categories] } : {}),
  };
  const entries = [main];
  const verbs = writable ? ['get', 'patch', 'update'] : ['get'];
  if (definition.hasStatus) entries.push({ name: `${plural}/status`, singularName: '', namespaced, kind, verbs });
  if (definition.scale !== undefined) {
    const scale = {
      name: `${plural}/scale`,
      singularName: '',
      namespaced,
      kind: 'Scale',
      group: 'autoscaling',
      version: 'v1',
      verbs,
    };
    entries.push(scale);
  }
  return entries;
}

function resourceList(groupVersion: string, resources: JsonObject[]): JsonObject {
  return { kind: 'APIResourceList', apiVersion: 'v1', groupVersion, resources };
}

function splitGroupVersion(groupVersion: string): [string, string] {
  const [group = '', version = ''] = groupVersion.split('/');
  return [group, version];
}

/** Discovery documents by path, made once. */
export function discoveryDocuments(registry: ResourceRegistry): Map<string, JsonObject> {
  const documents = new Map<string, JsonObject>();
  const lists = new Map<string, JsonObject[]>();
  for (const [groupVersion, definitions] of registry.groupVersions()) {
    lists.set(groupVersion, definitions.flatMap(resourceEntries));
  }
  for (const [groupVersion, kinds] of Object.entries(reviewResources)) {
    const entries = Object.entries(kinds).map(([name, kind]) => {
      return { name, singularName: kind.toLowerCase(), namespaced: false, kind, verbs: ['create'] };
    });
    lists.set(groupVersion, entries);
  }
  const groups: JsonObject[] = [];
  for (const [groupVersion, resources] of lists) {
    if (!groupVersion.includes('/')) {
      documents.set(`/api/${groupVersion}`, resourceList(groupVersion, resources));
      continue;
    }
    const [name, version] = splitGroupVersion(groupVersion);
    documents.set(`/apis/${groupVersion}`, resourceList(groupVersion, resources));
    const entry = { groupVersion, version };
    const group = { name, versions: [entry], preferredVersion: entry };
    groups.push(group);
    documents.set(`/apis/${name}`, { kind: 'APIGroup', apiVersion: 'v1', ...group });
  }
  documents.set('/api', { kind: 'APIVersions', versions: ['v1'], serverAddressByClientCIDRs: [] });
  documents.set('/apis', { kind: 'APIGroupList', apiVersion: 'v1', groups });
  documents.set('/version', {
    ...followedVersion,
    gitCommit: '',
    gitTreeState: '',
    buildDate: '',
    goVersion: '',
    compiler: 'node',
    platform: `${process.platform}/${process.arch}`,
  });
  const paths = [...documents.keys(), '/healthz', '/livez', '/readyz', '/openapi/v2', '/openapi/v3'];
  documents.set('/', { paths: paths.toSorted() });
  return documents;
}

/** Used by the OpenAPI documents, too. */
export function pathPrefix(definition: ResourceDefinition): string {
  return `${definition.group === '' ? '/api' : '/apis'}/${apiVersionOf(definition)}`;
}
