/**
 * Where the API server is and who we are to it: the one file that knows @kubernetes/client-node, which reads kubeconfigs,
 * in-cluster tokens, exec plugins and client certificates. It costs 0.45 s and 87 MB to import and is therefore imported
 * when first used.
 *
 * Invariants:
 * 1. Credentials are read again at least every 30 s (tokens of service accounts and certificates rotate on disk), and at
 *    once by `refresh()`.
 * 2. No error of this file carries a credential.
 */
import type { Clock } from '../runtime/clock.ts';
import { scrub } from '../runtime/log.ts';

export interface CredentialSource {
  /** Path of a kubeconfig. Without it and without `inCluster`: $KUBECONFIG, ~/.kube/config, then in-cluster, as kubectl does. */
  readonly kubeconfigPath?: string;
  /** A context of the kubeconfig other than its current one. */
  readonly context?: string;
  /** Use the pod's service account. */
  readonly inCluster?: boolean;
}

export interface TlsMaterial {
  readonly ca?: string | Buffer;
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
  readonly servername?: string;
  readonly rejectUnauthorized?: boolean;
}

export interface Identity {
  readonly headers: Readonly<Record<string, string>>;
  readonly tls: TlsMaterial;
}

export interface Credentials {
  /** The API server's URL, without a slash at the end. */
  readonly server: string;
  /** The namespace of the context, or of the pod. */
  readonly namespace: string | undefined;
  current(): Promise<Identity>;
  /** Forgets what is cached, exec plugins' tokens included. */
  refresh(): void;
}

/** A minute is what client-go keeps a token file for; tokens are rotated well before they end. */
const keptMs = 30_000;

type KubeConfig = import('@kubernetes/client-node').KubeConfig;

async function load(source: CredentialSource): Promise<KubeConfig> {
  const { KubeConfig } = await import('@kubernetes/client-node');
  const config = new KubeConfig();
  const from = source.inCluster === true ? 'the pod' : (source.kubeconfigPath ?? 'the default kubeconfig');
  try {
    if (source.inCluster === true) config.loadFromCluster();
    else if (source.kubeconfigPath === undefined) config.loadFromDefault();
    else config.loadFromFile(source.kubeconfigPath);
  } catch (error) {
    // A parse error of YAML quotes the lines around it, which may hold a key.
    const code = error instanceof Error && 'code' in error ? ` (${error.code})` : '';
    throw new Error(`cannot read ${from}${code}: is it there, readable, and a kubeconfig?`);
  }
  if (source.context !== undefined) {
    const names = config.getContexts().map((context) => context.name);
    if (!names.includes(source.context)) {
      throw new Error(
        `${from} has no context ${JSON.stringify(source.context)}; it has: ${names.join(', ') || 'none'}`,
      );
    }
    config.setCurrentContext(source.context);
  }
  const cluster = config.getCurrentCluster();
  if (cluster === null) {
    throw new Error(`${from}: its current context ${JSON.stringify(config.getCurrentContext())} names no cluster`);
  }
  if (cluster.proxyUrl !== undefined && cluster.proxyUrl !== '') {
    throw new Error(`${from}: proxy-url of cluster ${JSON.stringify(cluster.name)} is not supported`);
  }
  if (!/^https?:\/\/[^/]/.test(cluster.server)) {
    throw new Error(`${from}: server of cluster ${JSON.stringify(cluster.name)} is not an http(s) URL`);
  }
  return config;
}

function material(value: unknown): string | Buffer | undefined {
  return typeof value === 'string' || Buffer.isBuffer(value) ? value : undefined;
}

async function identity(config: KubeConfig): Promise<Identity> {
  const options: Parameters<KubeConfig['applyToHTTPSOptions']>[0] = {};
  try {
    await config.applyToHTTPSOptions(options);
  } catch (error) {
    const why = error instanceof Error ? scrub(error.message).slice(0, 300) : 'unknown error';
    throw new Error(`cannot get credentials for context ${JSON.stringify(config.getCurrentContext())}: ${why}`);
  }
  const headers: Record<string, string> = {};
  for (const [name, value] of Object.entries(options.headers ?? {})) {
    // Token files end in a newline as often as not.
    if (typeof value === 'string') headers[name.toLowerCase()] = value.trim();
  }
  if (typeof options.auth === 'string') headers.authorization = `Basic ${Buffer.from(options.auth).toString('base64')}`;
  const ca = material(options.ca);
  const cert = material(options.cert);
  const key = material(options.key);
  const servername = 'servername' in options ? material(options.servername) : undefined;
  return {
    headers,
    tls: {
      ...(ca === undefined ? {} : { ca }),
      ...(cert === undefined ? {} : { cert }),
      ...(key === undefined ? {} : { key }),
      ...(typeof servername === 'string' ? { servername } : {}),
      ...(options.rejectUnauthorized === undefined ? {} : { rejectUnauthorized: options.rejectUnauthorized }),
    },
  };
}

/** @throws Error saying what is wrong with the source and where */
export async function loadCredentials(source: CredentialSource, clock: Clock): Promise<Credentials> {
  let config = await load(source);
  let cached: { readonly at: number; readonly identity: Promise<Identity> } | undefined;
  let stale = false;
  const renew = async (): Promise<Identity> => {
    if (stale) {
      config = await load(source);
      stale = false;
    }
    return identity(config);
  };
  return {
    server: (config.getCurrentCluster()?.server ?? '').replace(/\/+$/, ''),
    namespace: config.getContextObject(config.getCurrentContext())?.namespace,
    async current() {
      if (cached === undefined || clock.monotonic() - cached.at >= keptMs) {
        const attempt = { at: clock.monotonic(), identity: renew() };
        cached = attempt;
        attempt.identity.catch(() => {
          if (cached === attempt) cached = undefined;
        });
      }
      return cached.identity;
    },
    refresh() {
      stale = true;
      cached = undefined;
    },
  };
}
