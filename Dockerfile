# The operator's image: one bundled file on Node 24. Nothing is installed and no shell is used in the last stage.

FROM node:24-bookworm-slim AS build
WORKDIR /src
COPY package.json package-lock.json ./
# Optional packages stay in here: esbuild's binary is one. None of them reaches the last stage.
RUN npm ci --no-audit --no-fund
COPY crds ./crds
COPY tools ./tools
COPY agent ./agent
COPY controller ./controller
COPY examples ./examples
RUN npm run bundle

FROM node:24-bookworm-slim
ENV NODE_ENV=production
WORKDIR /app
COPY --from=build /src/dist ./
USER 1000:1000
ENTRYPOINT ["node", "--enable-source-maps", "/app/controller/main.js"]
CMD ["--help"]
