"""The schema and the resolvers of cvae's config. Hydra imports this file at every start, however it is started."""

from cvae.resolvers import register

register()
